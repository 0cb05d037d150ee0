"""The atlas as a result, for readers: a page of the repository, one of the site, charts for both."""
