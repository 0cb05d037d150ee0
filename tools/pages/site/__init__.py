"""`kd site`: the catalog as static pages that open from disk and from any host."""
