"""Write `grafana.json` and `alerts.yml`: `python -m deploy`."""

from deploy.files import contents

for path, text in contents().items():
    path.write_text(text)
    print(path)
