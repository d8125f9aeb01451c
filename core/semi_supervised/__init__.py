"""Semi-supervised methods: how unlabelled images train beside few labelled ones."""
