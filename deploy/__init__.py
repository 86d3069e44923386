"""What is watched of a server: the list, and the dashboard and alert rules that are made of it."""
