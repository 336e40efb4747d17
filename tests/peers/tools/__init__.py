"""What runs in the other tools' own environments; nothing here imports the project."""
