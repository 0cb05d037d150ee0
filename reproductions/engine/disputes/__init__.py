"""What papers dispute, and which recorded arms answer it: reproductions/disputes.yaml and what is computed for it."""
