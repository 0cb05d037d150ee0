"""`kd elicit`: a data set of a user's own, written by a user's own teacher."""
