"""The Trio shell: feeds machines and performs what they command. It decides nothing."""
