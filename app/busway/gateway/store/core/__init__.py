"""What each operation and each read does, for every database."""
