"""How a batch is blended: pairing, inputs, labels, and the losses on mixed labels."""
