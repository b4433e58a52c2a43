"""mogadm: one module per group of topics, `grammar` for what a command is, `main` for reading the command line."""
