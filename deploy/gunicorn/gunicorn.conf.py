"""gunicorn behind nginx on a unix socket. ../nginx/nginx.conf explains how the numbers fit together."""

bind = "unix:/run/app/gunicorn.socket"
# Passed to listen(2). Linux grants at most net.core.somaxconn. With ,backlog=2048 the exporter reports a lower limit.
backlog = 2048
workers = 4
timeout = 30
graceful_timeout = 25
# Heartbeat files, in memory because the root may be read-only and a disk may be slow.
worker_tmp_dir = "/dev/shm"
# Newer releases open another socket in the home directory, which may be read-only.
control_socket_disable = True
