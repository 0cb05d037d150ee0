"""Components of elicitation by the survey's six names (arXiv 2402.13116, section 3.1); each maps records to records.

A component is `component(rows, session, **settings) -> rows`: pure but for what the session's journal keeps. What is
dropped already passes through, rows that it drops are marked with a reason, rows that it makes name their parents.
"""
