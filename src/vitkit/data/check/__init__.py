"""What is wrong with the images of a set: copies, leaks, odd ones; `run.check_data` does it all."""
