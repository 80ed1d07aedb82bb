"A proxy that stands before a server and fails as servers, networks and other proxies do."

import threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

ANSWERS = dict(  # status, headers, body
    busy=(429, {'Retry-After': '0.01'}, b'{"error": {"message": "Rate limit reached"}}'),
    broken=(502, {}, b'<html>Bad gateway</html>'),
    rubbish=(200, {}, b'<html>Please sign in</html>'),
    unauthorized=(401, {}, b'{"error": "Invalid API key"}'),
    missing=(404, {}, b'{"detail": "Not Found"}'),
    moved=(307, {'Location': 'https://elsewhere.example/v1'}, b''),
)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def answer(self, status, headers, body, most=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[:most])

    def do_GET(self):
        proxy, body = self.server.proxy, self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if self.path in proxy.hidden:
            return self.answer(*ANSWERS['missing'])
        fault = proxy.next_fault()
        if fault == 'closed':
            self.close_connection = True
        elif fault == 'slow':
            time.sleep(4)
            self.close_connection = True
        elif fault in ANSWERS:
            self.answer(*ANSWERS[fault])
        else:
            got = proxy.client.request(self.command, proxy.upstream.removesuffix('/v1') + self.path, content=body)
            if fault == 'cut':
                self.answer(got.status_code, {}, got.content, most=len(got.content) // 2)
                self.close_connection = True
            else:
                proxy.passed.append(self.path)
                self.answer(got.status_code, {'Content-Type': 'application/json'}, got.content)

    do_POST = do_GET


class Proxy:
    "`fault(n)` names what goes wrong with the n-th call, or None; `passed` are the paths that were answered."

    def __init__(self, upstream, fault, hidden=()):
        self.upstream, self.fault, self.hidden, self.passed = upstream, fault, hidden, []
        self.calls, self.faults, self.lock = 0, 0, threading.Lock()

    def next_fault(self):
        with self.lock:
            found = self.fault(self.calls)
            self.calls, self.faults = self.calls + 1, self.faults + (found is not None)
            return found

    def count(self, end):
        return sum(path == f'/v1{end}' for path in self.passed)

    def __enter__(self):
        self.client = httpx.Client(timeout=60)
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads, self.server.proxy = True, self
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}/v1'
        return self

    def __exit__(self, *e):
        self.server.shutdown()
        self.server.server_close()
        self.client.close()
