"""`rmbg up`: run the whole service, with embedded servers, on one machine."""
