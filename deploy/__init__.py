"""What runs the service: on one machine here, in containers elsewhere; and the command line."""
