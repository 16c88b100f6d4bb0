"""Helpers that every package uses: errors, files, folders, processes, the console."""
