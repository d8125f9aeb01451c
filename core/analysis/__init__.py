"""Measurements on trained networks. They read a network and train nothing."""
