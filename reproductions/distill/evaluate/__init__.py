"""Start, teachers and student on rows that nothing is trained on: figures of every row, and the table of them."""
