"""gunicorn behind nginx on a unix socket. How the numbers fit together is told in ../nginx/nginx.conf."""

bind = "unix:/run/app/gunicorn.socket"
# What it asks of listen(2). Linux grants at most net.core.somaxconn; tell the exporter with ,backlog=2048 to see when it was less.
backlog = 2048
workers = 4
timeout = 30
graceful_timeout = 25
# The heartbeat's files: memory, since the root may be read-only and a disk may be slow.
worker_tmp_dir = "/dev/shm"
# Newer releases open one more socket, in the home directory, which may be read-only.
control_socket_disable = True
