"""The accuracy search: candidates, mixed precision, accuracy targets and validation samples; writes nothing and prints nothing."""
