"""What a study trains, and how far it is."""
