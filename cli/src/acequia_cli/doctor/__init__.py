"""`acequia doctor`: checks each part through the real path, and says what is wrong and how to mend it."""
