"""All operator knowledge: what each operator says about the positions of its inputs and outputs."""
