import java.lang.reflect.Method;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginBundle;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * A node of Elasticsearch 8.19 or 9, with setting=value as arguments. It ends with its standard
 * input. The folder `path.home` has an empty `config` and the `modules`.
 */
public class Elasticsearch {
  public static void main(String[] arguments) throws Exception {
    LogConfigurator.configureESLogging();
    Settings.Builder settings = Settings.builder();
    for (String argument : arguments) {
      String[] both = argument.split("=", 2);
      settings.put(both[0], both[1]);
    }
    Environment environment =
        InternalSettingsPreparer.prepareEnvironment(
            settings.build(), Map.of(), null, () -> "test");
    // The last argument: the server is on the class path, and so not a named module.
    PluginsLoader loader =
        PluginsLoader.createPluginsLoader(
            bundles("loadModulesBundles", environment.modulesDir()),
            bundles("loadPluginsBundles", environment.pluginsDir()),
            Map.of(),
            false);
    new Node(environment, loader).start();
    while (System.in.read() >= 0) {}
    Runtime.getRuntime().halt(0);
  }

  /** 9 has one parameter more than 8. */
  @SuppressWarnings("unchecked")
  static Set<PluginBundle> bundles(String name, Path folder) throws Exception {
    for (Method method : PluginsLoader.class.getMethods()) {
      if (method.getName().equals(name)) {
        boolean alone = method.getParameterCount() == 1;
        return (Set<PluginBundle>)
            (alone ? method.invoke(null, folder) : method.invoke(null, folder, false));
      }
    }
    throw new NoSuchMethodException(name);
  }
}
