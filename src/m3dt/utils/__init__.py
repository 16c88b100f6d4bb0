"""What every room uses: errors, files, processes, the console."""
