"""The atlas as a result: league tables, pooled statements, agreement with the papers' own order, sharpness."""
