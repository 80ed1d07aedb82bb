"Packaging from settings.ini alone: nbdev reads its own keys there, this file the rest (extras, data files, scripts)."

from configparser import ConfigParser
from pathlib import Path
import shlex
import setuptools

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
lib = cfg['lib_path']
pythons = ['3.11', '3.12', '3.13']  # what .github/workflows/test.yaml runs
assert cfg['min_python'] == pythons[0]


def words(key):
    return shlex.split(cfg.get(key, ''))


setuptools.setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl']},
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Natural Language :: English',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        *(f'Programming Language :: Python :: {v}' for v in ['3', *pythons]),
    ],
    python_requires='>=' + cfg['min_python'],
    packages=setuptools.find_packages(str(here), include=[lib, lib + '.*']),
    package_data={lib: words('package_data')},
    include_package_data=False,
    zip_safe=False,
    install_requires=words('requirements'),
    extras_require={k.removesuffix('_requirements'): words(k) for k in cfg if k.endswith('_requirements')},
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': [f'{lib}={lib}._modidx:d']},
)
