"""HTTP only: takes pictures, answers about tasks."""
