"""Which convention a distillation loss keeps: golden vectors, and the check of somebody's function against them."""
