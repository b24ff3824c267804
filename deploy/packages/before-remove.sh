# Runs before the rpm is removed (0) or replaced by another version (1).
if [ "$1" -eq 0 ] && command -v systemctl >/dev/null; then
  systemctl --no-reload disable listen-queue-exporter.service || :
  if [ -d /run/systemd/system ]; then
    systemctl stop listen-queue-exporter.service || :
  fi
fi
