"""What readers see of a reproduction: one view of a paper that README, lists, pages, site and terminal share."""
