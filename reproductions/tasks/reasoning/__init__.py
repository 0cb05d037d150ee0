"""Problems of several steps in six families, told in several ways; solutions in words, programs and equations."""
