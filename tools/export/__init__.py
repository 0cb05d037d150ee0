"""`kd export`: the catalog and all results as data sets, with a card that describes every column."""
