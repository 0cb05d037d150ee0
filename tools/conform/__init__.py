"""`kd conform`: finding somebody's function, saying what it computes, and the losses of other libraries."""
