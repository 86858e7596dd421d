"""Pure metrics over pairs of images, and the statistics behind their intervals."""
