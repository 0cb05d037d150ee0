"""JSON Schemas for editors, made from the vocabularies that the strict readers use."""
