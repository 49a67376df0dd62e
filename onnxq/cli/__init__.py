"""The command line: parse options, call one function of the package, print; nothing heavy is imported before a command runs."""
