"""A business that greets whoever writes to it, by plain HTTP. Needs nothing but Python."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Greeter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/request":
            self.answer(200, {"text": f"{asked['text']} to you too, {asked['device']}!"})
        elif self.path == "/events":
            for event in asked.get("events", []):
                print(event["kind"], event["device"], flush=True)
            self.answer(200, {})  # what is answered so doesn't come again
        else:
            self.answer(404, {})

    def answer(self, status, reply):
        body = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass  # a line for each request would be many


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", 9003), Greeter).serve_forever()
