"""Side by side with the peers: each module is a command. See README.md."""
