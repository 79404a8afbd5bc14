"""Files that come in pieces (tus 1.0.0), kept in the bucket until they are whole."""
