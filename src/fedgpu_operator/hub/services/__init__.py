"""What the loops are made of, one service per subject: placing, attempts, billing, moves, settlement."""
