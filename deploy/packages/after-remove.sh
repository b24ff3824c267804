# Runs after the rpm is removed (0) or replaced by another version (1).
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || :
  if [ "$1" -ge 1 ]; then
    systemctl try-restart listen-queue-exporter.service || :
  fi
fi
if [ "$1" -eq 0 ]; then
  # cargo-generate-rpm cannot list directories, so rpm does not remove them.
  for directory in doc/listen-queue-exporter/docs doc/listen-queue-exporter/examples doc/listen-queue-exporter licenses/listen-queue-exporter; do
    rmdir "/usr/share/$directory" 2>/dev/null || :
  done
fi
