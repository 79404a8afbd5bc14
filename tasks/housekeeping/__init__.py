"""What keeps records, queues and the bucket consistent: periodic work of the I/O worker."""
