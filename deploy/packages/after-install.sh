# Runs after the rpm is installed (1) or upgraded (2).
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ] && command -v systemctl >/dev/null; then
  systemctl --no-reload preset listen-queue-exporter.service || :
fi
