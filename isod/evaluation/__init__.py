"""Average precision by class and object size, for detection with don't-care objects."""
