"""Jobs of several GPUs: relaxation, greedy plan, repair and the exact search for small problems; nothing else."""
