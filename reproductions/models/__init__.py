"""Who teaches and who learns: models from scratch or as published, and how they were trained before any method."""
