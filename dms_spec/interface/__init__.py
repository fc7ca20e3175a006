"""What an extension is: a signal, a policy, a backend, an exporter, and what a backend claims."""
