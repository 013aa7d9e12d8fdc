"""The embedded finance questions, their worked solutions, their textbook and their typical errors."""
