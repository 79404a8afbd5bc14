"""How a picture is taken in, whichever way it came."""
