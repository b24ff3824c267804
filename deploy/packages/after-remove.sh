# Runs after the rpm is removed (0) or replaced by another version (1).
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || :
  if [ "$1" -ge 1 ]; then
    systemctl try-restart listen-queue-exporter.service || :
  fi
fi
