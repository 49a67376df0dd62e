"""Recording of the inputs that an application gives its models; no planning, no numerics."""
